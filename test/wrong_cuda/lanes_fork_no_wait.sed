# experts do not wait for their rows
/^void lanes_fork(/,/^}/ s~i <= expert_lanes~i < 1~
