# recording goes on after the window
/^void window_ends(/,/^}/ s~model->recording = 0;~~
