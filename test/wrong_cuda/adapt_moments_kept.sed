# the new expert keeps the moments of the one before
/^int gpt2_adapt(/,/^}/ s~if (slot >= 0)~if (0)~
