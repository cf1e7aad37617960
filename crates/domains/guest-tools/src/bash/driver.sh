__omnirun_load() {
  builtin mapfile -u 61 __omnirun_a
  __omnirun_n=${__omnirun_a[0]%$'\n'}
  builtin printf -v __omnirun_c %s "$__omnirun_p" "${__omnirun_a[@]:1}"
  builtin unset -v __omnirun_a
  builtin export -n __omnirun_c __omnirun_n __omnirun_o __omnirun_p __omnirun_s __omnirun_t __omnirun_w
}
__omnirun_save() {
  builtin printf '%s\0' "$__omnirun_n"
  builtin pwd
  builtin printf '\0%s\0' "$__omnirun_o"
  builtin umask
  builtin printf '\0'
  builtin printf '%s\0%s\0' "$BASHOPTS" "$SHELLOPTS"
  builtin alias -p
  builtin printf '\0'
  builtin declare -f
  builtin printf '\0'
  builtin declare -F -x
  builtin printf '\0'
  builtin declare -p
  if [[ $__omnirun_d -gt 0 ]]; then
    (__omnirun_outer)
  fi
  builtin printf '\0%s' "end $__omnirun_n"
} >&62
__omnirun_outer() {
  while [[ $__omnirun_d -gt 0 ]]; do
    __omnirun_d=$((__omnirun_d - 1))
    for __omnirun_i in \
      "${!_@}" "${!a@}" "${!b@}" "${!c@}" "${!d@}" "${!e@}" "${!f@}" "${!g@}" "${!h@}" \
      "${!i@}" "${!j@}" "${!k@}" "${!l@}" "${!m@}" "${!n@}" "${!o@}" "${!p@}" "${!q@}" \
      "${!r@}" "${!s@}" "${!t@}" "${!u@}" "${!v@}" "${!w@}" "${!x@}" "${!y@}" "${!z@}" \
      "${!A@}" "${!B@}" "${!C@}" "${!D@}" "${!E@}" "${!F@}" "${!G@}" "${!H@}" "${!I@}" \
      "${!J@}" "${!K@}" "${!L@}" "${!M@}" "${!N@}" "${!O@}" "${!P@}" "${!Q@}" "${!R@}" \
      "${!S@}" "${!T@}" "${!U@}" "${!V@}" "${!W@}" "${!X@}" "${!Y@}" "${!Z@}"; do
      if [[ ! -R $__omnirun_i && $__omnirun_i != __omnirun_* ]]; then
        builtin unset -v "$__omnirun_i"
      fi
    done
    builtin printf '\0'
    builtin declare -p
  done
}
__omnirun_flags() {
  __omnirun_p=
  case $__omnirun_o in *x*) __omnirun_p+='set -x;' ;; esac
  case $__omnirun_o in *v*) __omnirun_p+='set -v;' ;; esac
}
__omnirun_end() {
  __omnirun_s=$? __omnirun_o=$-
  builtin set +xv
  builtin unset -v __omnirun_c
  __omnirun_flags
  __omnirun_save
  builtin printf '%s %d\n' "$__omnirun_n" "$__omnirun_s" >&63
}
__omnirun_bye() {
  __omnirun_s=$? __omnirun_o=$- __omnirun_d=$((${#FUNCNAME[@]} - 1))
  builtin set +exvu
  builtin unset -v __omnirun_c
  __omnirun_flags
  case $__omnirun_o in *u*) __omnirun_p+='set -u;' ;; esac
  case $__omnirun_o in *e*) __omnirun_p+='set -e;' ;; esac
  __omnirun_save
}
__omnirun_status() {
  builtin return "$1"
}
__omnirun_out() {
  if [[ -n $__omnirun_t ]]; then
    builtin eval "builtin set -- $__omnirun_t"
    __omnirun_c=$__omnirun_p$3
    builtin trap - EXIT
    if __omnirun_status "$__omnirun_s"; then
      builtin eval "$__omnirun_c"
    else
      builtin eval "$__omnirun_c"
    fi
  fi
  builtin exit "$__omnirun_s"
}
trap() {
  if [[ $BASH_SUBSHELL != 0 ]]; then
    builtin trap "$@"
    builtin return
  fi
  builtin trap - EXIT
  if [[ -n $__omnirun_t ]]; then
    builtin eval "builtin $__omnirun_t"
  fi
  if builtin trap "$@"; then
    __omnirun_s=0
  else
    __omnirun_s=$?
  fi
  __omnirun_t=$(builtin trap -p EXIT)
  builtin trap '{ __omnirun_bye; } 2>&60;__omnirun_out' EXIT
  builtin return "$__omnirun_s"
}
__omnirun_p= __omnirun_t= __omnirun_n= __omnirun_d=0
builtin trap '{ __omnirun_bye; } 2>&60;__omnirun_out' EXIT
