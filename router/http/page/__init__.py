"""The page to chat on: static files, and how they are served."""
