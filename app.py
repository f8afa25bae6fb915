"""Entry of the dashboard: ``streamlit run app.py``."""

from pages import _memory, _navigation, _server_log

_memory.start()
_server_log.start()
_navigation.build().run()
