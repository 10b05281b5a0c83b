# sums of columns run on queue 0
/^void column_sums_add(/,/^}/ s~queue->stream~queues->stream~
