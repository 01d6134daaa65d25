"""How the demo's backbone was made; nothing else imports this."""
