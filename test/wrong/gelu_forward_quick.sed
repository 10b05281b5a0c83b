# GELU by sigmoid(1.702 x) instead of GPT-2's tanh form
/^void gelu_forward(/,/^}/ s~-GELU_U(inp\[i\])~-1.702f * inp[i]~
