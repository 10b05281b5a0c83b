# validation says nats for bits on the terminal
/^void validate(/,/^}/ s~p->step, loss, loss / log1p(1\.0),~p->step, loss, loss,~
