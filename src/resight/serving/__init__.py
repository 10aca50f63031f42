"""``resight serve``: an exported model behind the protocols that its clients speak already."""
