#!/bin/sh
# Prints the copyright notices and licenses of everything that the programs are linked with: Go's standard library and the
# modules. They must be distributed together with the programs.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin

# prints a line "NAME VERSION DIRECTORY" for each
linked() {
    echo "Go $(go env GOVERSION) $(go env GOROOT)"
    go list -mod=readonly -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' \
        ./go/cmd/epmd ./go/cmd/handover | sort -u
}

linked | while read -r name version folder; do
    printf '\n==== %s %s\n' "$name" "$version"
    found=
    for file in "$folder"/LICENSE* "$folder"/COPYING* "$folder"/NOTICE*; do
        [ -f "$file" ] || continue
        found=yes
        echo
        cat "$file"
    done
    if [ -z "$found" ]; then
        echo "notices: $name has no license file in $folder" >&2
        exit 1
    fi
done
