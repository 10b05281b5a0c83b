# the temperature does nothing
/^int sample_token(/,/^}/ s~(c\[v\]\.p - max) / temperature~c[v].p - max~
