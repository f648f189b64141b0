"""What the runtime promises, whatever sends its messages: each test runs once inline, once on Celery and once on RQ."""
