import { Argument, type Command } from 'commander';
import type { Context } from '../context.ts';
import type { Act } from '../families.ts';

export function define(command: Command, act: Act): void {
  command
    .addArgument(new Argument('<shell>', 'your shell').choices(Object.keys(SCRIPTS)))
    .addHelpText(
      'after',
      `
To have it in every shell:
  bash  echo 'source <(tasklane completion bash)' >> ~/.bashrc
  zsh   tasklane completion zsh > "\${fpath[1]}/_tasklane"
  fish  tasklane completion fish > ~/.config/fish/completions/tasklane.fish`,
    )
    .action(act(async ({ out }: Context, shell: keyof typeof SCRIPTS) => out.write(SCRIPTS[shell])));
}

/**
 * Each asks `tasklane __complete` with the words up to the cursor, the last of which may be empty, and gets a candidate a line, with a tab and a description
 * where there is one. Where it gets none, the shell offers files.
 */
const SCRIPTS = {
  // bash parts words at colons, as in q:0: the line is parted anew, and candidates lose what stands before the last colon.
  bash: `_tasklane() {
  local IFS=$' \\t\\n' line="\${COMP_LINE:0:COMP_POINT}" words word
  read -ra words <<< "$line"
  [[ $line == *[[:space:]] ]] && words+=('')
  word="\${words[\${#words[@]}-1]}"
  local candidates
  IFS=$'\\n' read -r -d '' -a candidates < <("\${words[0]}" __complete -- "\${words[@]:1}" 2>/dev/null | cut -f 1 && printf '\\0')
  COMPREPLY=("\${candidates[@]}")
  if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then
    COMPREPLY=("\${COMPREPLY[@]#"\${word%"\${word##*:}"}"}")
  fi
}
complete -o default -o nosort -F _tasklane tasklane
`,
  zsh: `#compdef tasklane
_tasklane() {
  local -a candidates
  local line value
  while IFS= read -r line; do
    value=\${line%%$'\\t'*}
    [[ $line == *$'\\t'* ]] && candidates+=("\${value//:/\\\\:}:\${line#*$'\\t'}") || candidates+=("\${value//:/\\\\:}")
  done < <(\${words[1]} __complete -- "\${(@)words[2,$CURRENT]}" 2>/dev/null)
  if (( \${#candidates} )); then
    _describe -V tasklane candidates
  else
    _files
  fi
}
if [[ $funcstack[1] == _tasklane ]]; then
  _tasklane "$@"
else
  compdef _tasklane tasklane
fi
`,
  fish: `function __tasklane_complete
    set -l words (commandline -opc) (commandline -ct)
    $words[1] __complete -- $words[2..-1] 2>/dev/null
end
complete -c tasklane -f -a '(__tasklane_complete)'
complete -c tasklane -n 'test (count (__tasklane_complete)) -eq 0' -F
`,
};
