"""The web page of ``audiovq serve``: what it does, what it draws, and the server."""
