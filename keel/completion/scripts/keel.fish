# Completion of keel for fish: keel completion fish | source
function __keel_words
    set -l tokens (commandline -opc) (commandline -ct)
    $tokens[1] completion words -- $tokens[2..-1] 2>/dev/null
end
complete -c keel -f -a '(__keel_words)'
