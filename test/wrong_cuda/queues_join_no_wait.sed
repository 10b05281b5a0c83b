# what follows does not wait for the experts
/^void queues_join(/,/^}/ s~i <= expert_queues~i < 1~
