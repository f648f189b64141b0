"""RabbitMQ, where there is one, takes and gives a message."""

from kombu import Connection


def test_a_message_goes_there_and_comes_back(rabbitmq_url: str, queue_prefix: str):
    with Connection(rabbitmq_url) as connection:
        queue = connection.SimpleQueue(f"{queue_prefix}hello")
        queue.put("hello")
        message = queue.get(timeout=5)
        message.ack()
        queue.close()
        connection.default_channel.queue_delete(queue.queue.name)
    assert message.payload == "hello"
