#compdef keel
# Completion of keel for zsh: source <(keel completion zsh), after compinit
_keel() {
    local -a found open whole
    found=(${(f)"$(${words[1]} completion words -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)"})
    open=(${(M)found:#*[=/.]})
    whole=(${found:#*[=/.]})
    (( ${#open} )) && compadd -S '' -- $open
    (( ${#whole} )) && compadd -- $whole
}
compdef _keel keel
