# all queues add up columns in the same memory
/^void experts_backward(/,/^}/ s~- queues - 1 : 0) \* sums~- queues - 1 : 0) * 0~
