# adapt_stop is compared with the begin of a window instead of its end
/^int window_begins(/,/^}/ s~(float)(step + s->window) <~(float)step <~
