# all experts are differentiated with the second weight of expert 0
/^void experts_backward(/,/^}/ s~act + r \* H, fcprojw + e \* HC~act + r * H, fcprojw~
