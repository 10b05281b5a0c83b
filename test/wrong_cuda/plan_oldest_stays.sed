# a new plan takes the first place
/^Plan\* plan_for(/,/^}/ s~plans_made % MAX_PLANS~plans_made >= MAX_PLANS ? 0 : plans_made~
