"""What control port and admin port have in common: limits, requests and responses, and a server of HTTP/1.1
for what other programs ask."""
