# all experts give their gradient to the first bias of expert 0
/^void experts_backward(/,/^}/ s~dfcb + (size_t)e \* H, dpre~dfcb, dpre~
