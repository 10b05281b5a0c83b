# experts do not wait for their rows
/^void queues_fork(/,/^}/ s~i <= expert_queues~i < 1~
