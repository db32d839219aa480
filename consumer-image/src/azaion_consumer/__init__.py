"""From a RabbitMQ stream to annotation files on disk."""
