package fleet_test

import (
	"testing"
	"time"

	"github.com/carload/carload/uploader/fleet"
	"github.com/carload/carload/uploader/fleet/fleettest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	fleettest.Run(t, func(_ *testing.T, lease time.Duration) fleettest.Queue { return fleet.NewMemory(lease) })
}
