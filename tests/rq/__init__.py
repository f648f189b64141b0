"""The RQ binding, against real servers: in process where nothing has to die, with real `rq worker` processes where it has."""
