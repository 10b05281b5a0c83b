# the derivative of GELU runs on queue 0
/^void gelu_backward(/,/^}/ s~queue->stream~queues->stream~
