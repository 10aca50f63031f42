"""Records folders: TFRecord shards of ``tf.train.Example``, read by index and written whole."""
