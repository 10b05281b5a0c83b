# softmax routers start with --start-experts experts only
/^int main(/,/^}/ s~config\.router == TOP_ANY ? s\.start_experts : config\.E~s.start_experts~
