# recording begins one step late
/^int window_begins(/,/^}/ s~== s->window &&~== s->window + 1 \&\&~
