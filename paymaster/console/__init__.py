"""The console: pages for people at `/console` of the gateway, made on the server, with and without JavaScript."""
