"""What the shop, its processes and those who break them call things alike."""

SHAPES = ("lone", "chain", "function")
SAFETIES = ("undeclared", "idempotent", "probe", "transactional")
STEPS = ("charge", "ship", "mail")
#: What the bank's ledger calls each step's effect.
KINDS = {"charge": "charges", "ship": "shipments", "mail": "mails"}
QUEUE = "shop"
#: How long, in seconds, this bank may go on working on a request whose caller is gone.
SETTLE = 2.0
