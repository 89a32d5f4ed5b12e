PS1='[prefix] \w\$ '
