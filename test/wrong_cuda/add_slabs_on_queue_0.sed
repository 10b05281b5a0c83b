# sums of slabs run on queue 0
/^void add_slabs(/,/^}/ s~queue->stream~queues->stream~
