"""Entry of the dashboard: ``streamlit run app.py``.

Streamlit finds the application below without running this file, and imports it as the server starts: what every
request passes through is there before the first one. For each run of a page it runs the file again, as ``__main__``.
"""

import streamlit as st

from pages import _memory, _server

_memory.start()
_server.start()

if __name__ == "__main__":
    from pages import _navigation, _server_log

    _server_log.start()
    _navigation.build().run()
else:
    app = st.App(__file__, middleware=_server.MIDDLEWARE)
