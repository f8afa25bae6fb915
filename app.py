"""Entry of the dashboard: ``streamlit run app.py``."""

from pages import _navigation

_navigation.build().run()
