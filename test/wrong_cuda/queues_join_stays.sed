# what follows is started on the queue of the last expert
/^void queues_join(/,/^}/ s~queue = queues;~;~
