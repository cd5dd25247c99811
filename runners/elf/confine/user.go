package confine

import (
	"os"
	"strings"
	"sync"
)

// inUserNamespace says whether this process is in a user namespace that is not the machine's own: there not all users exist
// (user_namespaces(7)).
var inUserNamespace = sync.OnceValue(func() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(b)), " ") != "0 0 4294967295"
})
