# the prompt loses its last byte
/^void continue_text(/,/^}/ s~strlen(prompt);~strlen(prompt) - 1;~
