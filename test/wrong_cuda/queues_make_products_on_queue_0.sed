# products of cuBLAS run on queue 0 whatever the queue
/^void queues_make(/,/^}/ s~q->cublas, q->stream~q->cublas, queues->stream~
