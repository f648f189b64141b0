"""The rules of durability, and the only room that runs user code: one call is looked up, claimed, run, recorded and handed back.

Bindings give it the call and take its outcome; it asks the engine through the protocol in `engine`, and the journal for the rest.
"""
