"""The Celery binding against a real Redis, real prefork workers and a real journal."""
