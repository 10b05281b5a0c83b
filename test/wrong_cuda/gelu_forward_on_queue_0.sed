# GELU runs on queue 0
/^void gelu_forward(/,/^}/ s~queue->stream~queues->stream~
