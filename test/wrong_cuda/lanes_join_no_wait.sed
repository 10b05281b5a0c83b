# what follows does not wait for the experts
/^void lanes_join(/,/^}/ s~i <= expert_lanes~i < 1~
