"""Entry of the dashboard: ``streamlit run app.py``."""

from pages import _navigation, _server_log

_server_log.start()
_navigation.build().run()
