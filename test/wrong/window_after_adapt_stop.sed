# windows go on until the end of the run
/^int window_begins(/,/^}/ s~ && (float)(step + s->window) < s->adapt_stop \* (float)s->steps~~
