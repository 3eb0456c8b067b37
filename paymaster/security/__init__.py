"""What keeps secrets secret. Import the module that you need; this file imports none of them."""
