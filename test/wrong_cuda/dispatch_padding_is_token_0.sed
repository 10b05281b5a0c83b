# padding rows name token 0
/^int dispatch(/,/^}/ s~row_token, -1, room~row_token, 0, room~
