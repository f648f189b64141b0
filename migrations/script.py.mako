"""${message}.

Revision ${up_revision}, after ${down_revision | comma,n}.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """Expand only: code of the revision before this one goes on running on the result."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Gives back what `upgrade` added."""
    ${downgrades if downgrades else "pass"}
