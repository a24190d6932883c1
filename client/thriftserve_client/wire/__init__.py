"""Messages on a socket: what the client and the server both need. No service is known here."""
