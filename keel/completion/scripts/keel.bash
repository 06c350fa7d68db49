# Completion of keel for bash: source <(keel completion bash)
_keel() {
    local line=${COMP_LINE:0:COMP_POINT} last word words=()
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    last=${words[${#words[@]}-1]}
    local cut=""
    [[ $last == *[=:]* ]] && cut=${last%"${last##*[=:]}"}  # readline replaces what stands after the last = or :
    COMPREPLY=()
    while IFS= read -r word; do
        COMPREPLY+=("${word#"$cut"}")
    done < <("${words[0]}" completion words -- "${words[@]:1}" 2>/dev/null)
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/.] ]] && compopt -o nospace
    return 0
}
complete -o nosort -F _keel keel
