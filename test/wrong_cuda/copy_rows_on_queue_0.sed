# biases are written on queue 0
/^void matmul_forward(/,/^}/ s~queue->stream~queues->stream~
